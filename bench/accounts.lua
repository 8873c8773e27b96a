-- wrk over many accounts: reads of them, or deposits of 1.00.
-- Arguments: token, "read" or a name for the idempotency keys of this run, file of account ids.
local counter = 0
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("id", threads)
end

function init(args)
  accounts = {}
  for line in io.lines(args[3]) do
    accounts[#accounts + 1] = line
  end
  reads = args[2] == "read"
  prefix = args[2] .. "-" .. id .. "-"
  headers = { ["Authorization"] = "Bearer " .. args[1] }
  if not reads then
    headers["Content-Type"] = "application/json"
  end
  body = '{"amount": "1.00", "currency": "EUR", "counterpart": "cash", "memo": "benchmark"}'
end

function request()
  counter = counter + 1
  local path = "/api/v1/accounts/" .. accounts[(counter * 7919 + id) % #accounts + 1]
  if reads then
    return wrk.format("GET", path, headers)
  end
  headers["Idempotency-Key"] = prefix .. counter
  return wrk.format("POST", path .. "/deposits", headers, body)
end
