-- Fills the sums of a month from the journal when Valkey does not know them (first request of a month, lost memory).
-- Only the first caller's figures count. While the month is unknown, no hold of it begins or ends: those that are here
-- are the ones that were here when the journal was read.
-- KEYS: 1 sums of the tenant's month (hash)  2 holds of the tenant (hash)  3 holds by level (sorted set)
-- ARGV: 1 period  2 seconds to keep the sums
--       3 number of levels, then per level: prefix of its fields ('' the tenant), used tokens, used micro-yen
--       then the number of holds whose row is final, so that their use is in these figures: their request ids
--       then per unfinished row: request id, hold
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local sums, at = {}, 4
for _ = 1, tonumber(ARGV[3]) do
  sums[ARGV[at]] = {ARGV[at + 1], 0, ARGV[at + 2], 0}
  at = at + 3
end
local final = tonumber(ARGV[at])
for n = at + 1, at + final do redis.call('HDEL', KEYS[2], ARGV[n]) end
for n = at + final + 1, #ARGV, 2 do redis.call('HSETNX', KEYS[2], ARGV[n], ARGV[n + 1]) end
redis.call('DEL', KEYS[3])
local holds = redis.call('HGETALL', KEYS[2])
for n = 1, #holds, 2 do
  local tokens, micro_yen, period, names = string.match(holds[n + 1], '^(%d+):(%d+):([^:]*):[^:]*:%d+:(.*)$')
  local prefixes = {''}
  for name in string.gmatch(names, '%S+') do
    prefixes[#prefixes + 1] = name .. ' '
    redis.call('ZADD', KEYS[3], 0, name .. ' ' .. holds[n])
  end
  for _, prefix in ipairs(period == ARGV[1] and prefixes or {}) do
    local sum = sums[prefix] or {'0', 0, '0', 0}
    sum[2], sum[4] = sum[2] + tonumber(tokens), sum[4] + tonumber(micro_yen)
    sums[prefix] = sum
  end
end
for prefix, sum in pairs(sums) do
  redis.call('HSET', KEYS[1], prefix .. 'used_tokens', sum[1], prefix .. 'held_tokens', string.format('%d', sum[2]),
    prefix .. 'used_micro_yen', sum[3], prefix .. 'held_micro_yen', string.format('%d', sum[4]))
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
