"""The chassis of every service: settings, server, interceptors, health, drain, model worker, database.

It knows nothing of any one service, and never imports torch: the model lives in a spawned worker process.
"""
