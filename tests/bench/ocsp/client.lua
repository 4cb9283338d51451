-- What wrk sends and what it reports: one line of JSON on standard output.
--
-- Arguments after --: KIND THREADS PAUSE_MS FILE FIRST. KIND is `same` (the URL's request, again and again), `get` (a path on
-- each line of FILE) or `post` (an OCSPRequest in hexadecimal digits on each line). Threads share the lines
-- out, begin at line FIRST, and go on at the beginning after the last. `lines` is how far the quickest thread came. PAUSE_MS is the mean pause before each request of a connection, 0 for none.

local all = {}

function setup(thread)
  thread:set("thread_number", #all)
  thread:set("asked", 0)
  all[#all + 1] = thread
end

local function post(line)
  local der = line:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end)
  return wrk.format("POST", "/ocsp", { ["Content-Type"] = "application/ocsp-request" }, der)
end

local function read(kind, threads, path)
  local requests, n = {}, 0
  for line in io.lines(path) do
    if n % threads == thread_number then
      requests[#requests + 1] = kind == "post" and post(line) or wrk.format("GET", line)
    end
    n = n + 1
  end
  return requests
end

function init(args)
  local kind, threads, pause_ms, path, first = args[1], tonumber(args[2]), tonumber(args[3]), args[4], tonumber(args[5])
  if kind ~= "same" then
    local requests, at = read(kind, threads, path), math.floor(first / threads)
    function request()
      at = at % #requests + 1
      asked = asked + 1
      return requests[at]
    end
  end
  if pause_ms > 0 then
    math.randomseed(thread_number)
    function delay() return math.random(0, 2 * pause_ms) end
  end
end

function done(summary, latency)
  local errors, most = summary.errors, 0
  for _, thread in ipairs(all) do most = math.max(most, thread:get("asked")) end
  io.write(string.format(
    '{"requests":%d,"lines":%d,"seconds":%.3f,"failed":%d,"p50_ms":%.3f,"p99_ms":%.3f,"p999_ms":%.3f,"max_ms":%.3f}\n',
    summary.requests, most * #all, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3, latency.max / 1e3))
end
