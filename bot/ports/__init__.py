"""The ports: Protocols for Matrix, the model, the ledger and the clock."""
