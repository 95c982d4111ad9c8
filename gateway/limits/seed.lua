-- Fills the counters of a period from the journal when Valkey does not know them (first request of a month, lost
-- memory). Only the first caller's figures count; the holds are those of the journal's unfinished rows.
-- KEYS: 1 use of the period (hash)  2 holds of the tenant (hash)
-- ARGV: 1 used tokens  2 used micro-yen, then per unfinished row: request id, hold
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local held_tokens, held_micro_yen = 0, 0
for n = 3, #ARGV, 2 do
  redis.call('HSETNX', KEYS[2], ARGV[n], ARGV[n + 1])
  local tokens, micro_yen = string.match(redis.call('HGET', KEYS[2], ARGV[n]), '^(%d+):(%d+):')
  held_tokens = held_tokens + tonumber(tokens)
  held_micro_yen = held_micro_yen + tonumber(micro_yen)
end
redis.call('HSET', KEYS[1], 'used_tokens', ARGV[1], 'used_micro_yen', ARGV[2],
  'held_tokens', string.format('%d', held_tokens), 'held_micro_yen', string.format('%d', held_micro_yen))
return 1
