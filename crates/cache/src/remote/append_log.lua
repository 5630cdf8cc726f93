-- Appends to the log of what was forgotten, which wakes all who wait for it.
--
-- KEYS: the log. ARGV: who says it, how long the log is kept in milliseconds, its length, and what is forgotten.

for i = 4, #ARGV do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'o', ARGV[1], 'w', ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return #ARGV - 3
