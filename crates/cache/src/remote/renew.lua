-- Extends the lock on fetching a response. Invariant: only the holder extends it.
--
-- KEYS: [1] the lock.
-- ARGV: [1] id of the caller, [2] time to live of the lock from now on, in milliseconds.
-- Returns 1 if the caller holds the lock, 0 if not.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
