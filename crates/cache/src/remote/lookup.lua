-- Looks up a response, and acquires the lock on fetching it if the caller asks for that.
-- Invariant: at most one replica holds the lock; a replica that is refused is marked as waiting.
--
-- KEYS: [1] the response, [2] the log, [3] the lock, [4] the mark that other replicas wait.
-- ARGV: [1] offset up to which the caller has read the log, [2] largest number of records to return,
--       [3] 1 to ask for the lock even if a response is stored,
--       [4] id of the caller; empty if it does not ask for the lock,
--       [5] time to live of the lock in milliseconds.
-- Returns { response or nil, its time to live in milliseconds, log records after the offset, 1 if the caller
-- acquired the lock, otherwise 0 }.

local response = redis.call('GET', KEYS[1])
local ttl, records = 0, {}
if response then
  ttl = redis.call('PTTL', KEYS[1])
  records = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
end
local acquired = 0
if ARGV[4] ~= '' and (ARGV[3] == '1' or not response) then
  if redis.call('SET', KEYS[3], ARGV[4], 'NX', 'PX', ARGV[5]) then
    acquired = 1
  else
    redis.call('SET', KEYS[4], '1', 'PX', ARGV[5])
  end
end
return { response, ttl, records, acquired }
