-- Sets a hold aside for one request at all its levels, or says which limit of which level refuses it; then nothing is
-- held anywhere. Idempotent: a hold that exists is confirmed.
-- KEYS: 1 sums of the tenant's month (hash)  2 holds of the tenant (hash)  3 holds by level (sorted set)
--       4 requests and tokens of the minute (hash)  5 mark of the generation
-- ARGV: 1 request id  2 tokens  3 micro-yen  4 period  5 instance
--       6 levels within the tenant from wide to narrow, separated by spaces
--       then per limited level: its number (0 the tenant, n the n-th of ARGV 6), tokens_month, micro_yen_month, rpm,
--       concurrency, tpm; -1 is not limited
-- Returns 'lost' when Valkey has lost what it knew of this generation, 'cold' when the month is not known, else
--       {verdict, number of the refusing level among the limited (0 none), seconds since the epoch, then per limited
--       level: tokens and micro-yen used or held, requests and tokens of the minute}.
local call, format = redis.call, string.format
local now = tonumber(call('TIME')[1])
local minute = format('%d', math.floor(now / 60))
-- The first level is the tenant, whose fields have no prefix.
local prefixes, rate_fields = {''}, {'minute', 'n', 't'}
local sum_fields = {'used_tokens', 'held_tokens', 'used_micro_yen', 'held_micro_yen'}
for name in string.gmatch(ARGV[6], '%S+') do
  local prefix, at = name .. ' ', 4 * #prefixes
  rate_fields[2 * #prefixes + 2], rate_fields[2 * #prefixes + 3] = prefix .. 'n', prefix .. 't'
  prefixes[#prefixes + 1] = prefix
  sum_fields[at + 1], sum_fields[at + 2] = prefix .. 'used_tokens', prefix .. 'held_tokens'
  sum_fields[at + 3], sum_fields[at + 4] = prefix .. 'used_micro_yen', prefix .. 'held_micro_yen'
end
local sums = call('HMGET', KEYS[1], unpack(sum_fields))
-- Where the month is known, so is the generation: one FLUSHALL takes both.
if not sums[1] then return call('EXISTS', KEYS[5]) == 1 and 'cold' or 'lost' end
local rates = call('HMGET', KEYS[4], unpack(rate_fields))
local counted = rates[1] == minute

local function tokens(n) return (sums[4 * n - 3] or 0) + (sums[4 * n - 2] or 0) end
local function micro_yen(n) return (sums[4 * n - 1] or 0) + (sums[4 * n] or 0) end
local function requests(n) return counted and tonumber(rates[2 * n]) or 0 end
local function minute_tokens(n) return counted and tonumber(rates[2 * n + 1]) or 0 end
local function none() return 0 end
local function in_flight(n)
  if n == 1 then return call('HLEN', KEYS[2]) end
  -- Names hold no space, and '!' is the character after it.
  return call('ZLEXCOUNT', KEYS[3], '[' .. prefixes[n], '(' .. string.sub(prefixes[n], 1, -2) .. '!')
end

local function answer(verdict, number, more_tokens, more_micro_yen, more_requests)
  local reply, size = {verdict, number, now}, 3
  for at = 7, #ARGV, 6 do
    local n = ARGV[at] + 1
    reply[size + 1], reply[size + 2] = tokens(n) + more_tokens, micro_yen(n) + more_micro_yen
    reply[size + 3], reply[size + 4] = requests(n) + more_requests, minute_tokens(n) + more_tokens
    size = size + 4
  end
  return reply
end

if call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return answer('held', 0, 0, 0, 0) end

-- What no waiting cures comes first; of several levels the narrowest is named.
for _, check in ipairs({
  {'tokens_month', 1, ARGV[2], tokens}, {'micro_yen_month', 2, ARGV[3], micro_yen}, {'tpm_alone', 5, ARGV[2], none},
  {'concurrency', 4, 1, in_flight}, {'rpm', 3, 1, requests}, {'tpm', 5, ARGV[2], minute_tokens},
}) do
  local verdict, offset, asked, taken = unpack(check)
  for at = #ARGV - 5, 7, -6 do
    local limit = ARGV[at + offset]
    if limit ~= '-1' and taken(ARGV[at] + 1) + asked > tonumber(limit) then
      return answer(verdict, (at - 1) / 6, 0, 0, 0)
    end
  end
end

call('HSET', KEYS[2], ARGV[1], table.concat({ARGV[2], ARGV[3], ARGV[4], ARGV[5], now, ARGV[6]}, ':'))
local held, rated, members = {}, {'minute', minute}, {}
for n, prefix in ipairs(prefixes) do
  local at = 4 * n
  held[at - 3], held[at - 2] = sum_fields[at - 2], format('%d', (sums[at - 2] or 0) + ARGV[2])
  held[at - 1], held[at] = sum_fields[at], format('%d', (sums[at] or 0) + ARGV[3])
  rated[at - 1], rated[at] = rate_fields[2 * n], requests(n) + 1
  rated[at + 1], rated[at + 2] = rate_fields[2 * n + 1], format('%d', minute_tokens(n) + ARGV[2])
  if n > 1 then members[2 * n - 3], members[2 * n - 2] = 0, prefix .. ARGV[1] end
end
call('HSET', KEYS[1], unpack(held))
if #members > 0 then call('ZADD', KEYS[3], unpack(members)) end
if not counted then call('DEL', KEYS[4]) end
call('HSET', KEYS[4], unpack(rated))
if not counted then call('EXPIRE', KEYS[4], 120) end
return answer('held', 0, ARGV[2], ARGV[3], 1)
