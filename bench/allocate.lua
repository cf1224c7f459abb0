-- SPDX-License-Identifier: GPL-2.0-only
-- The same allocation inside Redis: 128 open buckets, sequential key first, then write point, then least
-- recently used; a bucket from a list of free ones when the chosen one is full; the reservation is noted.
-- One hash holds the slots and both ways to find one, so that few commands are needed: six an allocation.
-- KEYS[1] names the set. ARGV: inode, write point, bucket size in sectors, sectors, offset.
local set, open = KEYS[1], KEYS[1] .. ':open'
local inode, write_point, bucket_sectors = ARGV[1], ARGV[2], tonumber(ARGV[3])
local asked, offset = tonumber(ARGV[4]), tonumber(ARGV[5])
local point = 'p:' .. write_point
local found = redis.call('HMGET', open, 'e:' .. inode .. ':' .. offset, point, 'clock')
local slot = found[1] or found[2] or redis.call('ZRANGE', set .. ':used', 0, 0)[1]
local clock = tonumber(found[3]) + 1

local sector, free, gen, last, last_point = struct.unpack('<LHBss', redis.call('HGET', open, slot))
if free == 0 then
    local bucket = redis.call('LPOP', set .. ':free')
    if not bucket then return redis.error_reply('no free buckets') end
    sector, free = tonumber(bucket) * bucket_sectors, bucket_sectors
    gen = tonumber(redis.call('HGET', set .. ':gens', bucket) or 0)
end

local sectors = math.min(asked, free)
free = free - sectors
if free < 8 then free = 0 end
local ending = 'e:' .. inode .. ':' .. (offset + sectors)
if last_point ~= point then redis.call('HDEL', open, last, last_point) else redis.call('HDEL', open, last) end
redis.call('HSET', open, ending, slot, point, slot, 'clock', clock,
    slot, struct.pack('<LHBss', sector + sectors, free, gen, ending, point))
redis.call('ZADD', set .. ':used', clock, slot)
redis.call('RPUSH', set .. ':held:' .. write_point, sector .. ':' .. sectors)
return redis.status_reply(inode .. ' ' .. offset .. ' ' .. sectors .. ' 0 ' .. sector .. ' ' .. gen)
