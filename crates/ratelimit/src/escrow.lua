-- Takes reports on shared buckets and grants tokens. Implements `escrow.rs`, which explains it, for Redis.
--
-- KEYS: one hash per bucket.
-- ARGV: the lease duration in microseconds, then for each bucket the 11 values capacity, rate, holder, sequence,
--   spent, acknowledged, leased, needed, wanted, reserve, reserve_within (microseconds).
-- Returns for each bucket: tokens, due_in, retry_in, recheck_in (microseconds), remaining.
--
-- Fields of a hash:
--   level      used or leased tokens in the bucket (`used`)
--   at         time of the last update, microseconds (`updated_us`)
--   promised   time at which tokens reserved before an edit are due, microseconds (`reserved_until_us`)
--   limit      capacity, rate, overflow and number of edits
--   =HOLDER    a lease: leased, spent, sequence, expiry in microseconds, number of edits when leased
--
-- Invariant: used + overflow >= the sum of leased tokens. Every key expires.

local EPSILON = 1e-6
local RETURN_AFTER = 1000000
local MAX_RESERVE_AHEAD = 100000
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local lease_duration = tonumber(ARGV[1])
local grants = {}

for i, key in ipairs(KEYS) do
  local first = 2 + (i - 1) * 11
  local capacity, rate = tonumber(ARGV[first]), tonumber(ARGV[first + 1])
  local holder, sequence = '=' .. ARGV[first + 2], tonumber(ARGV[first + 3])
  local spent, acknowledged = tonumber(ARGV[first + 4]), tonumber(ARGV[first + 5])
  local leased, needed = tonumber(ARGV[first + 6]), tonumber(ARGV[first + 7])
  local wanted, reserve = tonumber(ARGV[first + 8]), tonumber(ARGV[first + 9])
  local reserve_within = tonumber(ARGV[first + 10])

  local fields = redis.call('HGETALL', key)
  local used, updated, overflow, edits, reserved_until = 0, 0, 0, 0, 0
  local old_capacity, old_rate = 0, 0
  for f = 1, #fields, 2 do
    if fields[f] == 'level' then
      used = tonumber(fields[f + 1])
    elseif fields[f] == 'at' then
      updated = tonumber(fields[f + 1])
    elseif fields[f] == 'promised' then
      reserved_until = tonumber(fields[f + 1])
    elseif fields[f] == 'limit' then
      local c, r, o, e = fields[f + 1]:match('^(%S+) (%S+) (%S+) (%S+)$')
      old_capacity, old_rate, overflow, edits = tonumber(c), tonumber(r), tonumber(o), tonumber(e)
    end
  end
  -- After the clock stepped back, draining continues from the earlier time.
  local now = clock
  updated, reserved_until = math.min(updated, now), math.min(reserved_until, now + MAX_RESERVE_AHEAD)

  local lease, leased_by_others, leased_by_all, leased_in_bucket, expired = nil, 0, 0, 0, {}
  for f = 1, #fields, 2 do
    local name = fields[f]
    if name:sub(1, 1) == '=' then
      local l, s, n, x, e = fields[f + 1]:match('^(%S+) (%S+) (%S+) (%S+) (%S+)$')
      l, x, e = tonumber(l), tonumber(x), tonumber(e)
      leased_by_all = leased_by_all + l
      if e == edits then
        leased_in_bucket = leased_in_bucket + l
      end
      if x > now + lease_duration then
        x = now + lease_duration
        redis.call('HSET', key, name, string.format('%d %d %d %d %d', l, s, n, x, e))
      end
      if x <= now then
        expired[#expired + 1] = { name = name, leased = l, expires = x, edits = e }
      elseif name == holder then
        lease = { leased = l, spent = tonumber(s), sequence = tonumber(n), edits = e }
      else
        leased_by_others = leased_by_others + l
      end
    end
  end

  local is_late = lease and lease.sequence >= sequence
  -- A report that requests no tokens may not carry the limit in force.
  if (is_late or (wanted == 0 and reserve == 0)) and old_rate > 0 then
    capacity, rate = old_capacity, old_rate
  end
  local drain_rate = math.max(rate, old_rate)

  -- Leased tokens do not drain. The order of operations is that of escrow.rs, so that both round alike.
  local function drain(to)
    local drained = drain_rate * (math.max(0, to - updated) / 1e6)
    local from_reserved = drain_rate * (math.max(0, math.min(reserved_until, to) - updated) / 1e6)
    used = math.max(used, leased_by_all - overflow)
    drained = math.min(used + overflow - leased_by_all, drained)
    from_reserved = math.min(drained, from_reserved, overflow)
    overflow = overflow - from_reserved
    drained = drained - from_reserved
    local from_used = math.min(drained, math.max(used - leased_in_bucket, 0))
    used = used - from_used
    overflow = math.max(overflow - (drained - from_used), 0)
    updated = math.max(updated, to)
  end
  table.sort(expired, function(a, b)
    return a.expires < b.expires
  end)
  for _, lost in ipairs(expired) do
    drain(lost.expires)
    leased_by_all = leased_by_all - lost.leased
    if lost.edits == edits then
      leased_in_bucket = leased_in_bucket - lost.leased
    end
    redis.call('HDEL', key, lost.name)
  end
  drain(now)

  local tokens, due_in, retry_in, recheck_in, remaining = 0, 0, 0, 0, 0
  if not is_late then
    if old_capacity > 0 and (old_capacity ~= capacity or old_rate ~= rate) then
      -- Reserved tokens move to the overflow, which drains first until they are due.
      local reserved = math.max(0, math.min(used - old_capacity, leased_in_bucket))
      if reserved > 0 then
        reserved_until = math.min(
          math.max(reserved_until, now) + math.ceil(reserved / old_rate * 1e6), now + MAX_RESERVE_AHEAD)
      end
      local total = used + overflow
      used = old_capacity ~= capacity and math.min(capacity, total - reserved) or used - reserved
      overflow = total - used
      if old_capacity ~= capacity or reserved > 0 then
        edits = edits + 1
      end
    end
    local recorded = lease and lease.spent or acknowledged
    local leased_before = lease and lease.leased or 0
    local difference = math.max(0, spent - recorded) + leased - leased_before
    local lease_edits = lease and lease.edits or edits
    if lease_edits < edits and difference < 0 then
      -- Tokens leased before an edit may have moved to the overflow, so they return from there first.
      local returned = math.min(overflow, -difference)
      overflow = overflow - returned
      difference = difference + returned
    end
    local most = math.max(used, 2 * capacity)
    used = math.min(math.max(used + difference, 0), most)
    if leased == 0 then
      lease_edits = edits
    end

    local function share(room, wanted, needed)
      room = math.floor(room)
      return math.min(wanted, math.max(needed, math.ceil(room / 2)), room)
    end
    local function refill_time(missing)
      return math.ceil(math.max(0, missing) / rate * 1e6)
    end
    local room = capacity - used + EPSILON
    local reserved_for = math.max(0, reserved_until - now)
    reserve_within = math.max(0, reserve_within - reserved_for)
    local refill = math.min(
      rate * reserve_within / 1e6, capacity - leased_by_others - leased - math.min(room, 0))
    local next_token_in = room < 1 and refill_time(1 - room) + reserved_for or 0
    if room >= 1 then
      tokens = share(room, wanted, needed)
    elseif room + refill >= 1 then
      tokens = share(room + refill, reserve, 0)
      due_in = tokens > 0 and next_token_in or 0
    end
    used = used + tokens
    local served = due_in == 0 and math.min(tokens, needed) or 0
    leased = leased + tokens - served
    spent = spent + served
    if tokens == 0 then
      retry_in = next_token_in
      recheck_in = leased_by_others >= 1 and math.min(retry_in, RETURN_AFTER) or retry_in
      if capacity - leased_by_others < 1 then
        retry_in = retry_in + lease_duration
      end
    end
    remaining = math.max(0, math.floor(room - tokens))
    if leased > 0 or spent > acknowledged then
      local expires = now + lease_duration
      if tokens > 0 then
        lease_edits = edits
      end
      redis.call('HSET', key, holder,
        string.format('%d %d %d %d %d', leased, spent, sequence, expires, lease_edits))
    elseif lease then
      redis.call('HDEL', key, holder)
    end
  end
  redis.call('HSET', key, 'level', string.format('%.17g', used), 'at', string.format('%d', now),
    'limit', string.format('%.17g %.17g %.17g %d', capacity, rate, overflow, edits))
  if reserved_until > now then
    redis.call('HSET', key, 'promised', string.format('%d', reserved_until))
  end
  redis.call('PEXPIRE', key, math.ceil((used + overflow) / rate * 1000 + lease_duration / 1000) + 1000)
  grants[#grants + 1] = { tokens, due_in, retry_in, recheck_in, remaining }
end
return grants
