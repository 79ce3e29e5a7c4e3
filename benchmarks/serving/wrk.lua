-- The script that wrk runs: POST one file over and over, print the result as JSON.
--
--   wrk ... -s wrk.lua http://127.0.0.1:8700/predict -- BODY CONTENT_TYPE [RATE]
--
-- Without RATE every connection sends the next request when it has the answer to the last one.
-- With RATE (requests a second) requests follow one timetable of exponential gaps, whatever the
-- answers do: a connection that is free takes the next place in it. One wrk thread only. A request
-- whose place has passed before a connection was free is counted as late.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } clock_value;
  int clock_gettime(int clock, clock_value *value);
]]

local MONOTONIC = 1
local now = ffi.new("clock_value")
local threads = {}
local rate, place
late = 0

local function milliseconds()
  ffi.C.clock_gettime(MONOTONIC, now)
  return tonumber(now.seconds) * 1e3 + tonumber(now.nanoseconds) / 1e6
end

function setup(thread)
  table.insert(threads, thread)
end

local function spaced()
  local moment = milliseconds()
  place = (place or moment) - math.log(1 - math.random()) * 1e3 / rate
  if place < moment - 1 then late = late + 1 end
  -- wrk waits in whole milliseconds; rounding keeps the mean.
  return math.max(0, math.floor(place - moment + 0.5))
end

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = arguments[2]
  file:close()
  if arguments[3] then
    rate = tonumber(arguments[3])
    math.randomseed(1)
    delay = spaced
  end
end

function done(summary, latency, _)
  local waited = 0
  for _, thread in ipairs(threads) do waited = waited + thread:get("late") end
  local e = summary.errors
  print(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "bad": %d, "socket": %d, "late": %d, '
      .. '"p50": %.3f, "p99": %.3f, "max": %.3f}',
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write + e.timeout,
    waited, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
