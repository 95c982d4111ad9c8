-- Sets a hold aside for one request, or says which limit refuses it. Idempotent: a hold that exists is confirmed.
-- KEYS: 1 use of the period (hash)  2 holds of the tenant (hash)  3 requests of the minute (hash)
-- ARGV: 1 request id  2 tokens  3 micro-yen  4 tokens_month  5 micro_yen_month  6 rpm  7 concurrency  8 period
--       9 instance
-- Returns {verdict, remaining tokens, remaining micro-yen, remaining requests of the minute, seconds to its end,
--          holds of the tenant}.
local now = tonumber(redis.call('TIME')[1])
local use = redis.call('HMGET', KEYS[1], 'used_tokens', 'held_tokens', 'used_micro_yen', 'held_micro_yen')
if not use[1] then return {'cold', 0, 0, 0, 0, 0} end
local minute = math.floor(now / 60)
local rate = redis.call('HMGET', KEYS[3], 'minute', 'n')
local requests = 0
if tonumber(rate[1]) == minute then requests = tonumber(rate[2]) end
local tokens = tonumber(ARGV[4]) - tonumber(use[1]) - tonumber(use[2])
local micro_yen = tonumber(ARGV[5]) - tonumber(use[3]) - tonumber(use[4])
local in_flight = redis.call('HLEN', KEYS[2])
local left = {tokens, micro_yen, tonumber(ARGV[6]) - requests, (minute + 1) * 60 - now, in_flight}
local function answer(verdict) return {verdict, left[1], left[2], left[3], left[4], left[5]} end
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return answer('held') end
if tonumber(ARGV[2]) > tokens then return answer('tokens_month') end
if tonumber(ARGV[3]) > micro_yen then return answer('micro_yen_month') end
if in_flight >= tonumber(ARGV[7]) then return answer('concurrency') end
if left[3] <= 0 then return answer('rpm') end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ':' .. ARGV[3] .. ':' .. ARGV[8] .. ':' .. ARGV[9] .. ':' .. now)
redis.call('HINCRBY', KEYS[1], 'held_tokens', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'held_micro_yen', ARGV[3])
redis.call('HSET', KEYS[3], 'minute', minute, 'n', requests + 1)
redis.call('EXPIRE', KEYS[3], 120)
left = {tokens - tonumber(ARGV[2]), micro_yen - tonumber(ARGV[3]), left[3] - 1, left[4], in_flight + 1}
return answer('held')
