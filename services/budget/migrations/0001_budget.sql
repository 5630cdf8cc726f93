-- What was spent and what is set aside, by UTC day. Amounts are micro-dollars.
CREATE TABLE budget_days (
    day TEXT PRIMARY KEY,
    used_micros BIGINT NOT NULL,
    reserved_micros BIGINT NOT NULL
);

-- Amounts set aside for calls that are under way.
CREATE TABLE budget_reservations (
    id TEXT PRIMARY KEY,
    day TEXT NOT NULL,
    provider TEXT NOT NULL,
    amount_micros BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX budget_reservations_expires ON budget_reservations (expires_ms);

-- Every call to a provider that was charged or failed.
CREATE TABLE budget_calls (
    id TEXT PRIMARY KEY,
    day TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    task TEXT NOT NULL,
    outcome TEXT NOT NULL,
    cost_micros BIGINT NOT NULL,
    estimated BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    latency_ms BIGINT NOT NULL
);
CREATE INDEX budget_calls_at ON budget_calls (at_ms);
CREATE INDEX budget_calls_day ON budget_calls (day, provider);

-- Costs booked to groups of users.
CREATE TABLE budget_workflows (
    cohort TEXT NOT NULL,
    workflow TEXT NOT NULL,
    provider TEXT NOT NULL,
    cost_micros BIGINT NOT NULL,
    gain DOUBLE PRECISION NOT NULL,
    at_ms BIGINT NOT NULL,
    day TEXT NOT NULL,
    PRIMARY KEY (cohort, workflow)
);
CREATE INDEX budget_workflows_day ON budget_workflows (cohort, day);

-- Settings that all replicas share.
CREATE TABLE budget_settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- Answers that may be given again.
CREATE TABLE budget_answers (
    id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    answer TEXT NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX budget_answers_expires ON budget_answers (expires_ms);
