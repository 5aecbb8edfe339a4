"""`moontune ...`: starts a machine's services, runs jobs, lists what is there. Imports no torch."""
