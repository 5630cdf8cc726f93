-- The answer under a key, for how long it will still be there, what was forgotten since a place, and whether
-- the caller is to make a new one.
--
-- KEYS: the answer, the log, who makes it, whether others wait for it.
-- ARGV: the place, how many news at most, and if a new one is wanted even if there is one: 1.
-- And who the caller is, and how long the duty to make it lasts in milliseconds; empty: no duty is taken.

local answer = redis.call('GET', KEYS[1])
local left, news = 0, {}
if answer then
  left = redis.call('PTTL', KEYS[1])
  news = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
end
local duty = 0
if ARGV[4] ~= '' and (ARGV[3] == '1' or not answer) then
  if redis.call('SET', KEYS[3], ARGV[4], 'NX', 'PX', ARGV[5]) then
    duty = 1
  else
    redis.call('SET', KEYS[4], '1', 'PX', ARGV[5])
  end
end
return { answer, left, news, duty }
