-- Ends a hold at all its levels: what was set aside is given back and what was used is booked; or lowers it. Without the
-- hold nothing changes, so a second delivery books nothing. The minute in which the hold was admitted is trued up while
-- it runs; a minute that is over stays as it was.
-- KEYS: 1 sums of the hold's month (hash)  2 holds of the tenant (hash)  3 holds by level (sorted set)
--       4 requests and tokens of the minute (hash)
-- ARGV: 1 request id  2 tokens  3 micro-yen: used, or to hold from now on where that is less
--       4 'end' or 'shrink'
-- Returns 'ended', 'none' when there is no such hold, 'cold' when the month is not known: then nothing has changed.
local call, format = redis.call, string.format
local hold = call('HGET', KEYS[2], ARGV[1])
if not hold then return 'none' end
local tokens, micro_yen, period, instance, held_at, names = string.match(hold, '^(%d+):(%d+):([^:]*):([^:]*):(%d+):(.*)$')
local final = ARGV[4] == 'end'
local to_tokens, to_micro_yen = tonumber(ARGV[2]), tonumber(ARGV[3])
if not final then
  to_tokens, to_micro_yen = math.min(to_tokens, tokens), math.min(to_micro_yen, micro_yen)
end
local prefixes, members = {''}, {}
for name in string.gmatch(names, '%S+') do
  prefixes[#prefixes + 1] = name .. ' '
  members[#members + 1] = name .. ' ' .. ARGV[1]
end
local changes = final and {to_tokens, -tokens, to_micro_yen, -micro_yen}
  or {0, to_tokens - tokens, 0, to_micro_yen - micro_yen}
local fields = {}
for n, prefix in ipairs(prefixes) do
  local at = 4 * n
  fields[at - 3], fields[at - 2] = prefix .. 'used_tokens', prefix .. 'held_tokens'
  fields[at - 1], fields[at] = prefix .. 'used_micro_yen', prefix .. 'held_micro_yen'
end
local sums, after = call('HMGET', KEYS[1], unpack(fields)), {}
if not sums[1] then return 'cold' end
-- Numbers before the first write: a script that fails in the middle is not undone. '%d', since '-0' is no integer here.
for n, field in ipairs(fields) do
  after[2 * n - 1] = field
  after[2 * n] = format('%d', (sums[n] or 0) + changes[(n - 1) % 4 + 1])
end
local minute, rated = format('%d', math.floor(held_at / 60)), {}
if to_tokens ~= tonumber(tokens) and minute == format('%d', math.floor(call('TIME')[1] / 60))
    and call('HGET', KEYS[4], 'minute') == minute then
  for n, prefix in ipairs(prefixes) do rated[n] = prefix .. 't' end
  local counts = call('HMGET', KEYS[4], unpack(rated))
  for n = #counts, 1, -1 do
    rated[2 * n] = format('%d', (counts[n] or 0) + to_tokens - tokens)
    rated[2 * n - 1] = prefixes[n] .. 't'
  end
end
if final then
  call('HDEL', KEYS[2], ARGV[1])
  if #members > 0 then call('ZREM', KEYS[3], unpack(members)) end
else
  call('HSET', KEYS[2], ARGV[1],
    table.concat({format('%d', to_tokens), format('%d', to_micro_yen), period, instance, held_at, names}, ':'))
end
call('HSET', KEYS[1], unpack(after))
if #rated > 0 then call('HSET', KEYS[4], unpack(rated)) end
return 'ended'
