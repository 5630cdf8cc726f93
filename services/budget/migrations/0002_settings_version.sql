-- Version of a setting: higher by one with each change.
ALTER TABLE budget_settings ADD COLUMN version BIGINT NOT NULL DEFAULT 1;
