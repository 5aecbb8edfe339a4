"""The processes behind `moontune up`: what is started, how it is watched, restarted and stopped."""
