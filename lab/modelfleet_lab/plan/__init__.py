"""`modelfleet plan`: what a fleet would buy for a demand, why, and what one more GPU or dollar is worth."""
