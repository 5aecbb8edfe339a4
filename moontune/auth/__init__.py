"""Who is calling: principals, API keys, the token between services, and what each rpc needs."""
