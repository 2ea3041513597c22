#!/usr/bin/env bash
# A database for the studies of tuning workers, with a user of its own: MLflow's tables are none of their business.
set -euo pipefail
psql --set=ON_ERROR_STOP=1 --set=password="$OPTUNA_PASSWORD" --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'SQL'
CREATE ROLE optuna LOGIN PASSWORD :'password';
CREATE DATABASE optuna OWNER optuna;
REVOKE CONNECT ON DATABASE mlflow FROM PUBLIC;
SQL
