-- Tenant of every row. Rows of earlier versions belong to the tenant `default`.
CREATE TABLE budget_tenant_days (
    tenant TEXT NOT NULL,
    day TEXT NOT NULL,
    used_micros BIGINT NOT NULL,
    reserved_micros BIGINT NOT NULL,
    PRIMARY KEY (tenant, day)
);
INSERT INTO budget_tenant_days (tenant, day, used_micros, reserved_micros)
    SELECT 'default', day, used_micros, reserved_micros FROM budget_days;

ALTER TABLE budget_reservations ADD COLUMN tenant TEXT NOT NULL DEFAULT 'default';

ALTER TABLE budget_calls ADD COLUMN tenant TEXT NOT NULL DEFAULT 'default';
DROP INDEX budget_calls_day;
CREATE INDEX budget_calls_tenant_day ON budget_calls (tenant, day, provider);
CREATE INDEX budget_calls_tenant_at ON budget_calls (tenant, at_ms, id);

ALTER TABLE budget_answers ADD COLUMN tenant TEXT NOT NULL DEFAULT 'default';

-- The primary key of a table cannot be changed in SQLite. The rename locks the table first, so that what replicas of
-- an earlier version write meanwhile goes to the new table.
ALTER TABLE budget_workflows RENAME TO budget_workflows_before;
CREATE TABLE budget_workflows (
    tenant TEXT NOT NULL DEFAULT 'default',
    cohort TEXT NOT NULL,
    workflow TEXT NOT NULL,
    provider TEXT NOT NULL,
    cost_micros BIGINT NOT NULL,
    gain DOUBLE PRECISION NOT NULL,
    at_ms BIGINT NOT NULL,
    day TEXT NOT NULL,
    PRIMARY KEY (tenant, cohort, workflow)
);
INSERT INTO budget_workflows (cohort, workflow, provider, cost_micros, gain, at_ms, day)
    SELECT cohort, workflow, provider, cost_micros, gain, at_ms, day FROM budget_workflows_before;
DROP TABLE budget_workflows_before;
CREATE INDEX budget_workflows_day ON budget_workflows (tenant, cohort, day);
