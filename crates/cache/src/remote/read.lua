-- The answer under a key, for how long it will still be there, and what was forgotten since a place.
--
-- KEYS: the answer, the log. ARGV: the place, and how many at most.

local answer = redis.call('GET', KEYS[1])
if not answer then
  return { false, 0, {} }
end
local news = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
return { answer, redis.call('PTTL', KEYS[1]), news }
