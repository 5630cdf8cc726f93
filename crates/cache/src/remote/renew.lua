-- Prolongs the duty to make an answer, if it is still the caller's.
--
-- KEYS: who makes it. ARGV: who the caller is, and for how long in milliseconds.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
