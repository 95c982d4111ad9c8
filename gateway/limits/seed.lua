-- Fills the sums of a month from the journal when Valkey does not know them (first request of a month or of a
-- generation). Only the first caller's figures count. While the month is unknown, no hold of it begins or ends: those
-- that are here are the ones that were here when the journal was read.
-- KEYS: 1 sums of the tenant's month (hash)  2 holds of the tenant (hash)  3 holds by level (sorted set)
--       4 requests and tokens of the minute (hash)  5 mark of the generation
-- ARGV: 1 period  2 seconds to keep the sums  3 minute of the figures of the minute
--       4 number of levels, then per level: prefix of its fields ('' the tenant), used tokens, used micro-yen
--       then the number of levels in the minute, then per level: prefix, requests, tokens
--       then the number of holds whose row is final, so that their use is in these figures: their request ids
--       then per unfinished row: request id, hold
-- What is written after the mark was lost would make a lost generation look whole.
if redis.call('EXISTS', KEYS[1]) == 1 or redis.call('EXISTS', KEYS[5]) == 0 then return 0 end
local sums, rated, at = {}, {'minute', ARGV[3]}, 5
for _ = 1, tonumber(ARGV[4]) do
  sums[ARGV[at]] = {ARGV[at + 1], 0, ARGV[at + 2], 0}
  at = at + 3
end
for _ = 1, tonumber(ARGV[at]) do
  rated[#rated + 1], rated[#rated + 2] = ARGV[at + 1] .. 'n', ARGV[at + 2]
  rated[#rated + 1], rated[#rated + 2] = ARGV[at + 1] .. 't', ARGV[at + 3]
  at = at + 3
end
at = at + 1
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
-- A minute that is counted here already goes on as it is.
if redis.call('EXISTS', KEYS[4]) == 0 and #rated > 2 then
  redis.call('HSET', KEYS[4], unpack(rated))
  redis.call('EXPIRE', KEYS[4], 120)
end
return 1
