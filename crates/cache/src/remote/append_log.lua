-- Appends records to the invalidation log, which wakes every replica that blocks on it, and extends its life.
--
-- KEYS: [1] the log (a stream).
-- ARGV: [1] id of the caller, [2] time to live of the log in milliseconds, [3] its approximate length,
--       [4...] one record each.
-- Fields of a record: o, id of the replica; w, the record.
-- Returns the number of records appended.

for i = 4, #ARGV do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'o', ARGV[1], 'w', ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return #ARGV - 3
