"""Tools that any asyncio service needs: retries, TLS, failpoints, encryption at rest."""
