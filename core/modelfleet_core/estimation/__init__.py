"""Profile a request and estimate what each model would make of it."""
