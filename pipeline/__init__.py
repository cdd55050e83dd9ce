"""The stage runtime and its ports; pure but for asyncio. Imports only schemas."""
