-- wrk: deposits of 1.00. Arguments: token, a name for the keys of this run, file of account ids.
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
  prefix = args[2] .. "-" .. id .. "-"
  headers = {
    ["Authorization"] = "Bearer " .. args[1],
    ["Content-Type"] = "application/json",
  }
  body = '{"amount": "1.00", "currency": "EUR", "counterpart": "cash", "memo": "benchmark"}'
end

function request()
  counter = counter + 1
  headers["Idempotency-Key"] = prefix .. counter
  local account = accounts[(counter * 7919 + id) % #accounts + 1]
  return wrk.format("POST", "/api/v1/accounts/" .. account .. "/deposits", headers, body)
end
