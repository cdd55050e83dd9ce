"""First-class fakes: broker, objects, tables, clock."""
