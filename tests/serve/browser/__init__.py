"""The page in a real Chromium, in front of the real process of `sanseg serve` with the model in the box."""
