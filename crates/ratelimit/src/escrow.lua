-- Takes reports on buckets, and grants. This is `escrow.rs`, which explains it, for Redis.
--
-- KEYS: one hash for each bucket. ARGV: the lease in microseconds, then for each bucket capacity, rate,
-- holder, number, used, heard, held, needed, wanted, wanted ahead, and how far in microseconds.
-- Returns for each bucket: tokens, first in, retry in, again in, left.
--
-- A hash holds `level`, `at`, `promised` (until when), `limit` with capacity, rate, what is beyond and edits, and
-- for each replica `=HOLDER` with held, used, number, the lease's end and the edits before it.

local EPSILON = 1e-6
local GIVEN_BACK = 1000000
local AHEAD = 100000
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local lease = tonumber(ARGV[1])
local answers = {}

for i, key in ipairs(KEYS) do
  local first = 2 + (i - 1) * 11
  local capacity, rate = tonumber(ARGV[first]), tonumber(ARGV[first + 1])
  local holder, number = '=' .. ARGV[first + 2], tonumber(ARGV[first + 3])
  local used, heard = tonumber(ARGV[first + 4]), tonumber(ARGV[first + 5])
  local held, needed = tonumber(ARGV[first + 6]), tonumber(ARGV[first + 7])
  local wanted, wanted_ahead = tonumber(ARGV[first + 8]), tonumber(ARGV[first + 9])
  local reach = tonumber(ARGV[first + 10])

  local fields = redis.call('HGETALL', key)
  local level, at, beyond, edits, promised = 0, 0, 0, 0, 0
  local old_capacity, old_rate = 0, 0
  for f = 1, #fields, 2 do
    if fields[f] == 'level' then
      level = tonumber(fields[f + 1])
    elseif fields[f] == 'at' then
      at = tonumber(fields[f + 1])
    elseif fields[f] == 'promised' then
      promised = tonumber(fields[f + 1])
    elseif fields[f] == 'limit' then
      local c, r, b, d = fields[f + 1]:match('^(%S+) (%S+) (%S+) (%S+)$')
      old_capacity, old_rate, beyond, edits = tonumber(c), tonumber(r), tonumber(b), tonumber(d)
    end
  end
  -- A clock that stepped back goes on from where it is.
  local now = clock
  at, promised = math.min(at, now), math.min(promised, now + AHEAD)

  local known, others, all, newest, ended = nil, 0, 0, 0, {}
  for f = 1, #fields, 2 do
    local name = fields[f]
    if name:sub(1, 1) == '=' then
      local h, u, n, e, d = fields[f + 1]:match('^(%S+) (%S+) (%S+) (%S+) (%S+)$')
      h, e, d = tonumber(h), tonumber(e), tonumber(d)
      all = all + h
      if d == edits then
        newest = newest + h
      end
      if e > now + lease then
        e = now + lease
        redis.call('HSET', key, name, string.format('%d %d %d %d %d', h, u, n, e, d))
      end
      if e <= now then
        ended[#ended + 1] = { name = name, held = h, at = e, edits = d }
      elseif name == holder then
        known = { held = h, used = tonumber(u), number = tonumber(n), edits = d }
      else
        others = others + h
      end
    end
  end

  local late = known and known.number >= number
  -- One that asks for nothing may not know the limit in force.
  if (late or (wanted == 0 and wanted_ahead == 0)) and old_rate > 0 then
    capacity, rate = old_capacity, old_rate
  end
  local drain = math.max(rate, old_rate)

  -- What is held is used, and does not drain.
  local function drain_to(time)
    -- In the order of escrow.rs, so that both round alike.
    local drained = drain * (math.max(0, time - at) / 1e6)
    local of_promises = drain * (math.max(0, math.min(promised, time) - at) / 1e6)
    level = math.max(level, all - beyond)
    local used = math.min(level + beyond - all, drained)
    of_promises = math.min(used, of_promises, beyond)
    beyond = beyond - of_promises
    used = used - of_promises
    local of_the_level = math.min(used, math.max(level - newest, 0))
    level = level - of_the_level
    beyond = math.max(beyond - (used - of_the_level), 0)
    at = math.max(at, time)
  end
  table.sort(ended, function(a, b)
    return a.at < b.at
  end)
  for _, lease_ended in ipairs(ended) do
    drain_to(lease_ended.at)
    all = all - lease_ended.held
    if lease_ended.edits == edits then
      newest = newest - lease_ended.held
    end
    redis.call('HDEL', key, lease_ended.name)
  end
  drain_to(now)

  local tokens, first_in, retry_in, again_in, left = 0, 0, 0, 0, 0
  if not late then
    if old_capacity > 0 and (old_capacity ~= capacity or old_rate ~= rate) then
      -- What was reserved ahead goes beside the bucket, and what drains is for it until it is due.
      local ahead = math.max(0, math.min(level - old_capacity, newest))
      if ahead > 0 then
        promised = math.min(math.max(promised, now) + math.ceil(ahead / old_rate * 1e6), now + AHEAD)
      end
      local whole = level + beyond
      level = old_capacity ~= capacity and math.min(capacity, whole - ahead) or level - ahead
      beyond = whole - level
      if old_capacity ~= capacity or ahead > 0 then
        edits = edits + 1
      end
    end
    local seen = known and known.used or heard
    local accounted = known and known.held or 0
    local difference = math.max(0, used - seen) + held - accounted
    local granted_after = known and known.edits or edits
    if granted_after < edits and difference < 0 then
      -- It was granted before an edit, and may be beside the bucket since.
      local back = math.min(beyond, -difference)
      beyond = beyond - back
      difference = difference + back
    end
    local highest = math.max(level, 2 * capacity)
    level = math.min(math.max(level + difference, 0), highest)
    if held == 0 then
      granted_after = edits
    end

    local function share(room, wanted, needed)
      room = math.floor(room)
      return math.min(wanted, math.max(needed, math.ceil(room / 2)), room)
    end
    local function time_in(missing)
      return math.ceil(math.max(0, missing) / rate * 1e6)
    end
    local room = capacity - level + EPSILON
    local promised_in = math.max(0, promised - now)
    reach = math.max(0, reach - promised_in)
    local ahead = math.min(rate * reach / 1e6, capacity - others - held - math.min(room, 0))
    local drained_in = room < 1 and time_in(1 - room) + promised_in or 0
    if room >= 1 then
      tokens = share(room, wanted, needed)
    elseif room + ahead >= 1 then
      tokens = share(room + ahead, wanted_ahead, 0)
      first_in = tokens > 0 and drained_in or 0
    end
    level = level + tokens
    local served = first_in == 0 and math.min(tokens, needed) or 0
    held = held + tokens - served
    used = used + served
    if tokens == 0 then
      retry_in = drained_in
      again_in = others >= 1 and math.min(retry_in, GIVEN_BACK) or retry_in
      if capacity - others < 1 then
        retry_in = retry_in + lease
      end
    end
    left = math.max(0, math.floor(room - tokens))
    if held > 0 or used > heard then
      local until_us = now + lease
      if tokens > 0 then
        granted_after = edits
      end
      redis.call('HSET', key, holder,
        string.format('%d %d %d %d %d', held, used, number, until_us, granted_after))
    elseif known then
      redis.call('HDEL', key, holder)
    end
  end
  redis.call('HSET', key, 'level', string.format('%.17g', level), 'at', string.format('%d', now),
    'limit', string.format('%.17g %.17g %.17g %d', capacity, rate, beyond, edits))
  if promised > now then
    redis.call('HSET', key, 'promised', string.format('%d', promised))
  end
  redis.call('PEXPIRE', key, math.ceil((level + beyond) / rate * 1000 + lease / 1000) + 1000)
  answers[#answers + 1] = { tokens, first_in, retry_in, again_in, left }
end
return answers
