"""What a user asks for in one call: a plan, a run, an outcome."""
