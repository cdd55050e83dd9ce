"""Random faults against a whole running system, and one ledger that judges what came of it."""
