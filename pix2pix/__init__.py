"""The model and everything it needs. Knows neither DVC nor MLflow and stands alone."""
