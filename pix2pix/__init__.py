"""The model and everything it needs. Knows no DVC, Prefect or MLflow and stands alone."""
