"""Face detection, galleries and 1:N identification."""
