-- Ends a hold: what was set aside is given back and what was used is booked. Without the hold nothing changes, so a
-- second delivery books nothing.
-- KEYS: 1 use of the hold's period (hash)  2 holds of the tenant (hash)
-- ARGV: 1 request id  2 tokens used  3 micro-yen used
-- Returns 1 when the hold was ended, 0 when there was none.
local hold = redis.call('HGET', KEYS[2], ARGV[1])
if not hold then return 0 end
-- Numbers before the first write: a script that fails in the middle is not undone. '%d', since '-0' is no integer here.
local tokens, micro_yen = string.match(hold, '^(%d+):(%d+):')
local given_tokens, given_micro_yen = string.format('%d', -tonumber(tokens)), string.format('%d', -tonumber(micro_yen))
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[1], 'held_tokens', given_tokens)
redis.call('HINCRBY', KEYS[1], 'held_micro_yen', given_micro_yen)
redis.call('HINCRBY', KEYS[1], 'used_tokens', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'used_micro_yen', ARGV[3])
return 1
