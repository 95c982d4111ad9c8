-- Ends a hold at all its levels: what was set aside is given back and what was used is booked. Without the hold nothing
-- changes, so a second delivery books nothing.
-- KEYS: 1 sums of the hold's month (hash)  2 holds of the tenant (hash)  3 holds by level (sorted set)
-- ARGV: 1 request id  2 tokens used  3 micro-yen used
-- Returns 'ended', 'none' when there is no such hold, 'cold' when the month is not known: then nothing has changed.
local hold = redis.call('HGET', KEYS[2], ARGV[1])
if not hold then return 'none' end
local tokens, micro_yen, names = string.match(hold, '^(%d+):(%d+):[^:]*:[^:]*:%d+:(.*)$')
local prefixes, members = {''}, {}
for name in string.gmatch(names, '%S+') do
  prefixes[#prefixes + 1] = name .. ' '
  members[#members + 1] = name .. ' ' .. ARGV[1]
end
local changes, fields = {ARGV[2], -tokens, ARGV[3], -micro_yen}, {}
for n, prefix in ipairs(prefixes) do
  local at = 4 * n
  fields[at - 3], fields[at - 2] = prefix .. 'used_tokens', prefix .. 'held_tokens'
  fields[at - 1], fields[at] = prefix .. 'used_micro_yen', prefix .. 'held_micro_yen'
end
local sums, after = redis.call('HMGET', KEYS[1], unpack(fields)), {}
if not sums[1] then return 'cold' end
-- Numbers before the first write: a script that fails in the middle is not undone. '%d', since '-0' is no integer here.
for n, field in ipairs(fields) do
  after[2 * n - 1] = field
  after[2 * n] = string.format('%d', (sums[n] or 0) + changes[(n - 1) % 4 + 1])
end
redis.call('HDEL', KEYS[2], ARGV[1])
if #members > 0 then redis.call('ZREM', KEYS[3], unpack(members)) end
redis.call('HSET', KEYS[1], unpack(after))
return 'ended'
