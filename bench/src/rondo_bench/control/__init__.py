"""How the control plane scales: admissions, idle cost, and messages a token."""
