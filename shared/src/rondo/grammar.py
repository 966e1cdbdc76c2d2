"""Bounds on the grammars that answers must follow; gateways and engines have the same.

By llguidance's own bounds a regular expression of fifteen characters, (a{1000}){1000}, holds an
engine up for ten seconds; by these it fails within a tenth. A schema of forty fields with texts of
up to 20,000 characters needs less than a half of each.
"""

from __future__ import annotations

#: Work for the first state of a grammar, in llguidance's units of fuel.
INITIAL_FUEL = 50_000
#: Work for one token.
STEP_FUEL = 30_000
#: States in all.
MAX_STATES = 20_000
