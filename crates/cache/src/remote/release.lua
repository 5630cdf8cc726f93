-- Ends the duty to make an answer, and wakes those who wait for it.
--
-- KEYS: who makes it, whether others wait for it, the log.
-- ARGV: who the caller is, the log's length, and what is said.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
if redis.call('DEL', KEYS[2]) == 1 then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[2], '*', 'o', ARGV[1], 'w', ARGV[3])
end
return 1
