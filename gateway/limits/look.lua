-- How levels stand; holds nothing.
-- KEYS: 1 sums of the tenant's month (hash)  2 holds of the tenant (hash)  3 holds by level (sorted set)
--       4 requests and tokens of the minute (hash)  5 mark of the generation
-- ARGV: prefixes of the levels ('' the tenant)
-- Returns 'lost' or 'cold' as reserve.lua, else {seconds since the epoch, then per level: used and held tokens, used
--       and held micro-yen, running, requests and tokens of the minute}.
local call = redis.call
local now = tonumber(call('TIME')[1])
if call('EXISTS', KEYS[1]) == 0 then return call('EXISTS', KEYS[5]) == 1 and 'cold' or 'lost' end
local counted = call('HGET', KEYS[4], 'minute') == string.format('%d', math.floor(now / 60))
local reply = {now}
for _, prefix in ipairs(ARGV) do
  local figures = call('HMGET', KEYS[1], prefix .. 'used_tokens', prefix .. 'held_tokens', prefix .. 'used_micro_yen',
    prefix .. 'held_micro_yen')
  local running = prefix == '' and call('HLEN', KEYS[2])
    or call('ZLEXCOUNT', KEYS[3], '[' .. prefix, '(' .. string.sub(prefix, 1, -2) .. '!')
  local rates = counted and call('HMGET', KEYS[4], prefix .. 'n', prefix .. 't') or {false, false}
  for n = 1, 4 do reply[#reply + 1] = tonumber(figures[n]) or 0 end
  reply[#reply + 1], reply[#reply + 2] = running, tonumber(rates[1]) or 0
  reply[#reply + 1] = tonumber(rates[2]) or 0
end
return reply
