-- Run once by the postgres image when its volume is empty.
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
