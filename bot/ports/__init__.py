"""The ports: what the bot asks of Matrix, the model, the ledger and the clock."""
