"""What trained tickets are worth: verdicts and speed, curvature, calibration and robustness."""
