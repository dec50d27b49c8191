"""Makes an estimator of recorded outcomes of any amount."""
