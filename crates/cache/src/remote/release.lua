-- Releases the lock on fetching a response, and publishes the outcome in the log if other replicas wait.
-- Invariant: only the holder releases the lock.
--
-- KEYS: [1] the lock, [2] the mark that other replicas wait, [3] the log.
-- ARGV: [1] id of the caller, [2] approximate length of the log, [3] the record to publish.
-- Fields of a record: o, id of the replica; w, the record.
-- Returns 1 if the caller held the lock, 0 if not.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
if redis.call('DEL', KEYS[2]) == 1 then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[2], '*', 'o', ARGV[1], 'w', ARGV[3])
end
return 1
