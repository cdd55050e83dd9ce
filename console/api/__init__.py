"""The pages' HTTP API, one file per resource."""
