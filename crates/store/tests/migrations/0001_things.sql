CREATE TABLE things (
    id TEXT PRIMARY KEY,
    amount BIGINT NOT NULL,
    share DOUBLE PRECISION NOT NULL,
    note TEXT
);
