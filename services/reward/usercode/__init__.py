"""Rewards that users bring, one file for each way: code, container, remote service, judge, and operators' plugins."""
