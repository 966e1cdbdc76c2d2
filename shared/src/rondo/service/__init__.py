"""What every long-running program of Rondo shares: settings, logs, health, signals."""
