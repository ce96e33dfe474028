"""What every other part of compressctl speaks. Imports nothing from the rest of the package."""
