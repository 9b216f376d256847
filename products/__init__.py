"""What was built: product register, evidence and indicator 2."""
